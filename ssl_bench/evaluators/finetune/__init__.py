"""Fine-tuning: the whole network with a new head, its rate and length chosen on images that are not trained on."""
