"""From results to one offline page: the main job, and one experiment of a paper at a time."""
