"""The dataset folder: records, manifest, verification and statistics; and the tf.data pipeline that reads it."""
