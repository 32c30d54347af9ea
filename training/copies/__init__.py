"""The default copy descriptor: SSCD's recipe (Pizzi et al., 2022) on a small network."""
