"""Local servers that speak the wire protocols of ComfyUI, RunPod and Google, and render real, playable clips.

They exist so that the whole product runs without a GPU, a key or money: in the demo, in tests, in chaos runs and in
benchmarks. They listen on loopback only, keep an honest list of every paid submission they ever accepted, and can be
told to fail in the ways the real services fail.
"""
