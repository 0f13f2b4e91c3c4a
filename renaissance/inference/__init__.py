"""Using a trained model: load a run folder, then predict, match, embed, fill masks and rank."""
