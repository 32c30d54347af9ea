"""The science of curation: pure functions on arrays, bytes and Arrow. It knows neither Spark nor the trainer."""
