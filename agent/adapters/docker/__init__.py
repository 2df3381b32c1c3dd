"""The Docker daemon through aiodocker: containers, images and their one network."""
