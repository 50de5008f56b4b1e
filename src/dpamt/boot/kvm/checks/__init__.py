"""What the posted TDX selftests of KVM check, as scenarios of this project's own: one file each."""
