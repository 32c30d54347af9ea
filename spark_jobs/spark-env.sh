# Read by spark-submit before it starts a JVM. Set-up links this file into the conf folder of the venv's Spark, so
# that .venv/bin/spark-submit works as it is: no activated venv, no variables, no noise.

venv_python=$(cd -P "$SPARK_HOME/../../../.." && pwd)/bin/python
PYSPARK_PYTHON=${PYSPARK_PYTHON:-$venv_python}
JAVA_HOME=$("$venv_python" -I -m spark_jobs.java) || exit 2

# Spark's launcher always adds this module, and Java always warns of it; there is no switch for either.
exec 2> >(exec sed -u '/Using incubator modules: jdk.incubator.vector/d' >&2)
