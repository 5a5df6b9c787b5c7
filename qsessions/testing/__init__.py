"""For tests of your own: the emulator in a thread (`threaded`) and the fixtures that pytest finds by itself (`plugin`)."""
