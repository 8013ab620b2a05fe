"""What of its input a decision rests on: occlusion with the file that ships, gradients with the weights behind it."""
