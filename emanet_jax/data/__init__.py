"""Data sets on disk, synthetic rooms, augmentation and batches."""
