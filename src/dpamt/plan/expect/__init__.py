"""What a tester must see: page pairs and TD pages at each checkpoint of a test, as exact ranges."""
