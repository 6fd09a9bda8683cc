"""What a study and a trial are on disk: folders, records, the seal, the choice of trials."""
