"""What the library costs, measured: step time, selection time, memory."""
