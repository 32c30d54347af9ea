"""The science of curation: pure functions on arrays, bytes and Arrow batches. It knows neither Spark nor the trainer."""
