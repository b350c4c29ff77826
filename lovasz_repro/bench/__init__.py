"""How fast the losses and the training steps are."""
