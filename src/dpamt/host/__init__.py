"""Linux as a TDX host: core owns PAMT, kvm runs TDs, designs say when page pairs come and go."""
