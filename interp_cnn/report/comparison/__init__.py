"""Pages of the command compare: verdict, measures, filters, classes, images."""
