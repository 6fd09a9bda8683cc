"""Cohorts in memory: splits, folds, class imbalance, augmentation, batches; kinds of modality and audit checks."""
