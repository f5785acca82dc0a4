"""The one public door: typed gRPC and HTTP in front of a private TorchServe that it supervises."""
