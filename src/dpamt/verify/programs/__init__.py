"""What is verified: problems, the machine they run on, what each thread does, the suite."""
