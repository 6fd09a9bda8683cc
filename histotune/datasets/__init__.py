"""Dataset readers (files on disk -> Cohort): one file each; a new file is a new dataset."""
