"""HTTP for training: jobs, their events, datasets, and OpenAI's fine-tuning calls. The store holds all of it."""
