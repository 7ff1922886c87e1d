"""Over-samplers that make samples: SMOTE and its kin."""
