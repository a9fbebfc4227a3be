"""`python -m hybrid_video`."""

from hybrid_video.cli import main

main()
