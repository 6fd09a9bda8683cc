"""What a prediction rests on: saliency, attention, permutation, a map of the slide."""
