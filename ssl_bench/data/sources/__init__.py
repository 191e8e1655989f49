"""Where images come from: folders, lists, Parquet, torchvision, Hugging Face, rendered shapes."""
