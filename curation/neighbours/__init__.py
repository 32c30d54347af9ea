"""Similar pairs, the components they form, and which image of a component stays."""
