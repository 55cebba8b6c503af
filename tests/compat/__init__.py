"""What earlier versions of syncd wrote must stay readable."""
