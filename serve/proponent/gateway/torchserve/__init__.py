"""TorchServe as a private process: started, watched, managed and spoken to."""
