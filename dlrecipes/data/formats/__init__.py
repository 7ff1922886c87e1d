"""From what lies on disk to records of boxes, or to columns of images and targets."""
