"""Edge Glass: align vision, audio and text with frozen encoders and small trained heads."""
