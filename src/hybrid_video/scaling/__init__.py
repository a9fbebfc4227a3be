"""The parts of the autoscaling policy, all pure; `hybrid_video.autoscaler` puts them together."""
