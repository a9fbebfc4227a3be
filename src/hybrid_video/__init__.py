"""hybrid-video: batches of AI video on your own GPU, rented GPUs and Google, cheapest first."""

__version__ = "0.1.0"
