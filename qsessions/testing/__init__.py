"""For your tests: the emulator in a thread (`threaded`) and the fixtures of pytest (`plugin`)."""
