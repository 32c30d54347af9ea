"""What must go and stay away: tombstones that keep it out, what a store holds of it, and how each place forgets it."""
