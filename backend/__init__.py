"""The plug-in: Label Studio's ML protocol in front, a queue, and workers that keep PAM loaded behind it."""
