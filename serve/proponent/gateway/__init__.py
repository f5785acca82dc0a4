"""The one public endpoint: typed gRPC and HTTP in front of a private TorchServe that it supervises."""
