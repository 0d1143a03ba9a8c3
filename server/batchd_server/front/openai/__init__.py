"""The part of OpenAI's API that batchd serves: embeddings and the list of models that make them."""
