"""The Open Inference Protocol v2, REST and gRPC: another language for the same calls."""
