"""Binary segmentation on Pascal VOC under cross-entropy, hinge, Jaccard and Lovász losses."""
