"""Images, masks and batches: VOC on disk, its download, folds, the cache, the binary task."""
