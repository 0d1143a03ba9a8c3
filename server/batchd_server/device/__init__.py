"""The device process: owns the accelerator, runs models, and drives the controller."""
