"""The methods of the paper, one file each, and the bricks that they share."""
