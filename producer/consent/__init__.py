"""Giving a consent: forms, whose face it is, name and contact, the receipt."""
