"""The study of influence functions that this project implements, as commands: each experiment is one module."""
