"""Sanitizers: what an honest client takes out of its samples before it trains. One import a file."""

from fedpoison.clients.sanitizers import activation_clustering as activation_clustering
from fedpoison.clients.sanitizers import confident_learning as confident_learning
from fedpoison.clients.sanitizers import duplicates as duplicates
from fedpoison.clients.sanitizers import isolation_forest as isolation_forest
from fedpoison.clients.sanitizers import knn_labels as knn_labels
from fedpoison.clients.sanitizers import left_out as left_out
from fedpoison.clients.sanitizers import local_outlier_factor as local_outlier_factor
from fedpoison.clients.sanitizers import loss_trimming as loss_trimming
from fedpoison.clients.sanitizers import mahalanobis as mahalanobis
from fedpoison.clients.sanitizers import spectral_signatures as spectral_signatures
