"""The Open Inference Protocol v2 over REST: what tritonclient, kserve and others speak."""
