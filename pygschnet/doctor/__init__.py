"""What is installed and works, what a model and data hold, and what a training will cost."""

from pygschnet.doctor.command import doctor

__all__ = ["doctor"]
