"""TorchServe as a private process that hosts workers: started, watched, managed and spoken to."""
