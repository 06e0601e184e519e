"""Tries skep on AWS, and answers the facts that only AWS can confirm."""
