"""Looking at a run without touching it: health and alarms, a k-NN probe, pictures, event files, a page of it all."""
