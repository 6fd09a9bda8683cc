"""What is done with a study: create it, search it, train in it, rank it, audit it, tidy it."""
