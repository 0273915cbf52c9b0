"""Labels of reports by rules over sentences, in the manner of CheXpert's labeler."""

from sagittal_cxr.reports.labeler.engine import Labeler, Mention

__all__ = ["Labeler", "Mention"]
