"""A simulated ComfyUI: speaks the wire protocol of ComfyUI 0.8.0 and renders real, marked clips."""
